"""The Kafka consumer: what is read, where reading begins, and what a rebalance does."""
