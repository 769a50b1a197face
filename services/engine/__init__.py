"""The embedded engine: llama.cpp in a process of its own, on loopback, with a key."""
