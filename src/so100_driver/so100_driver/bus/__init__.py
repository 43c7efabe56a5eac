"""The Feetech bus: registers, packets, port, transactions with bounded retries."""
