"""Runs in the environment of `make test-peers`: prints what other libraries get from an endpoint, as JSON.

    python vectors.py BASE_URL

The models are `texts` (texts) and `photos` (images); standard input has {"texts": [...], "images": [...]}.
"""

import asyncio
import json
import sys

import cohere
import litellm
from langchain_openai import OpenAIEmbeddings

BASE_URL = sys.argv[1]
GIVEN = json.load(sys.stdin)
TEXTS, IMAGES = GIVEN["texts"], GIVEN["images"]


def langchain() -> list[list[float]]:
    # without check_embedding_ctx_length=False it sends token ids, made with OpenAI's own tokenizer
    embeddings = OpenAIEmbeddings(model="texts", base_url=BASE_URL, api_key="none", check_embedding_ctx_length=False)
    rows = embeddings.embed_documents(TEXTS)
    assert embeddings.embed_query(TEXTS[0]) == rows[0]
    assert asyncio.run(embeddings.aembed_documents(TEXTS)) == rows
    return rows


def langchain_images() -> list[list[float]]:
    embeddings = OpenAIEmbeddings(model="photos", base_url=BASE_URL, api_key="none", check_embedding_ctx_length=False)
    return embeddings.embed_documents(IMAGES)


def of_litellm(model: str, inputs: list[str]) -> list[list[float]]:
    answer = litellm.embedding(model=f"openai/{model}", input=inputs, api_base=BASE_URL, api_key="none")
    return [row["embedding"] for row in answer.data]


def of_cohere() -> list[list[float]]:
    client = cohere.ClientV2(api_key="none", base_url=BASE_URL.removesuffix("/v1"))
    answer = client.embed(model="texts", texts=TEXTS, input_type="search_document", embedding_types=["float", "int8"])
    assert len(answer.embeddings.int8[0]) == len(answer.embeddings.float_[0])
    return answer.embeddings.float_


print(
    json.dumps(
        {
            "langchain": langchain(),
            "langchain images": langchain_images(),
            "litellm": of_litellm("texts", TEXTS),
            "litellm images": of_litellm("photos", IMAGES),
            "cohere": of_cohere(),
        }
    )
)
