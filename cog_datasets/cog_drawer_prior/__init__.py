"""The dataset cog_drawer_prior."""
