"""`stackshift top`: one live screen of what is going on. `render.top` draws it."""
