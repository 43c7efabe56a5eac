"""ALOHA: both tasks of gym-aloha and a scripted expert for them."""
