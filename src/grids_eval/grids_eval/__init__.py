"""Success of policies: actors, roll-outs, demonstrations, studies, replays."""
