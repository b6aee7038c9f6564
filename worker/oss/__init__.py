"""The OSS vector service: requests, connections, and what answers mean."""
