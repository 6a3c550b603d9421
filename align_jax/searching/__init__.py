"""A page to search a collection of pictures with: its embeddings, its index, queries and the page itself."""
