"""Runs a bot that was written for Pipecat, unchanged, as a program that speaks lines of JSON with the node.

It needs the standard library and the Pipecat of the bot's own virtual environment, nothing else of this project:
Pipecat's pins and ours exclude each other. The node starts it as `VENV/bin/python …/pipecat_runner bot.py`.
"""
