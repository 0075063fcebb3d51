"""The judge as a service: what its endpoint understands, and how it comes to its answers."""
