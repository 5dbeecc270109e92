"""Pure translations, without a process, a file or a network: cells, expressions, shapes, and what step code does."""
