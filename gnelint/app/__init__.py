"""What the commands do with many targets: batches, their cache, the tests in rule files."""
