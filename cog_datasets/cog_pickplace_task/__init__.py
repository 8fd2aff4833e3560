"""The dataset cog_pickplace_task."""
