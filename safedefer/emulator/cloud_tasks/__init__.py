"""A local Cloud Tasks service: the queue's rules, its gRPC surface, and HTTP delivery."""
