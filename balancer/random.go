package balancer

func (v *View) random(m Members) int {
	if len(v.live) == 0 {
		return -1
	}
	for range redraws {
		if at := int(v.live[v.find(unit(v.state.random()))]); v.may(at, m) {
			return at
		}
	}
	return -1
}

func (v *View) hash(q *Query, m Members) int {
	if len(v.live) == 0 {
		return -1
	}
	if at := int(v.live[v.find(float64(q.Key)/(1<<32))]); v.may(at, m) {
		return at
	}
	return -1
}
