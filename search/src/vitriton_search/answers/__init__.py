"""What a store is asked: functions over a `Store`, and over a `Client` where something has to be embedded first."""
