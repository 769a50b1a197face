"""Documents in, passages out: parse, chunk, embed, index, retrieve, and the queue that feeds it."""
