"""From the corpora as they were released to ArrayRecord to batches. No JAX here: workers stay light."""
