package podsize

// BeyondReserve tells that of what a host has less than so many percent would be free once so much is used. Units are the caller's.
func BeyondReserve(has, used, percent int64) bool {
	return used > has-has/100*percent-has%100*percent/100
}
