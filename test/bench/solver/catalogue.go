package main

func (m *run) catalogue() error { return nil }
