"""The only place with native code: thin typed wrappers over the library in `csrc/`."""
