// A page that is opened as a file may start no worker, and the search of the theme runs in one. Here it runs in a hidden frame,
// which has what search uses of a worker: messages both ways, and importScripts.
if (location.protocol === "file:") {
  const prelude = `
    postMessage = (message) => parent.postMessage(message, "*");
    importScripts = async (...urls) => {
      for (const url of urls)
        await new Promise((loaded, failed) => {
          const script = document.createElement("script");
          Object.assign(script, { src: url, onload: loaded, onerror: failed });
          document.body.append(script);
        });
    };`;

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.frame = frame;
      addEventListener("message", this.receive);
      const page = frame.contentDocument;
      page.open();
      page.write(`<body><script>${prelude}</script><script src="${new URL(url, document.baseURI)}"></script></body>`);
      page.close();
      this.loaded = new Promise((loaded) => frame.contentWindow.addEventListener("load", loaded)); // after open(), which drops them
    }

    receive = ({ source, data }) => {
      if (source !== this.frame.contentWindow) return;
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    };

    async postMessage(data) {
      await this.loaded;
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      removeEventListener("message", this.receive);
      this.frame.remove();
    }
  };
}
