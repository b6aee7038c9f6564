"""From records to settled records: batches, lanes, retries."""
