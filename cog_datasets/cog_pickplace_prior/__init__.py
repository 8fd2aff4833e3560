"""The dataset cog_pickplace_prior."""
