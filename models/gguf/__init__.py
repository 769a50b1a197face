"""GGUF files: what stands in their headers, and the memory that llama-server takes for them.

`header` reads, `estimate` reckons, `launch` knows the flags that count. None of them imports numpy.
"""
