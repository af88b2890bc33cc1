"""What a run starts from: models, seed data, rankings, templates."""
