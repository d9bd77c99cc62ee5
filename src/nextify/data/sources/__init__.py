"""Where images come from: folders, lists, Parquet, tar shards, Hugging Face."""
