package broker

// Topics returns how many channels are remembered.
func (m *Memory) Topics() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.topics)
}

// Weight returns what counts against TotalBytes.
func (m *Memory) Weight() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}
