"""Which tokens are kept: their rows, their ids in the config, and a tokenizer that knows no others."""
