"""The parity gate: an exported model beside the reference."""
