package fanfare

import "fanfare/broker"

// CheckPattern returns nil if pattern can be a [ChannelConfig]'s: a channel's
// name, in which a segment may be "*", and the last "**".
func CheckPattern(pattern string) error { return broker.CheckPattern(pattern) }
