pool.add_backend(inner);
pool.add_backend(more);
