"""The dataset cog_drawer_task."""
