"""The KV cache: pages, who holds them, and where their bytes lie."""
