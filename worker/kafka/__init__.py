"""Clients, reading whole partitions and creating topics: what every part that talks to Kafka shares."""
