"""Measurements that take turns."""
