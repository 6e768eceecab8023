"""The audits of docs/protocol.md: which reading do the papers' numbers belong to?"""
