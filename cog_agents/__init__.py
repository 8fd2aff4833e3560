"""Learn from dataset names: agents, their configurations, training and evaluation."""
