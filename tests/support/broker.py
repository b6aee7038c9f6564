"""The one Apache Kafka that a whole test run shares."""
