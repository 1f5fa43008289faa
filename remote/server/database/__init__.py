"""What the server remembers in SQL: the only room that speaks it. Every statement carries its shard key."""
