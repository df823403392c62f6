package sat

// The heap has the open variables, and perhaps others, the most active first; of
// equally active ones the first.

func (s *Solver) before(a, b int32) bool {
	if s.activity[a] != s.activity[b] {
		return s.activity[a] > s.activity[b]
	}
	return a < b
}

func (s *Solver) push(v int32) {
	if s.place[v] >= 0 {
		return
	}
	s.place[v] = int32(len(s.heap))
	s.heap = append(s.heap, v)
	s.up(s.place[v])
}

func (s *Solver) pop() int32 {
	top, last := s.heap[0], s.heap[len(s.heap)-1]
	s.heap = s.heap[:len(s.heap)-1]
	s.place[top] = -1
	if len(s.heap) > 0 {
		s.heap[0], s.place[last] = last, 0
		s.down(0)
	}
	return top
}

func (s *Solver) up(i int32) {
	v := s.heap[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !s.before(v, s.heap[parent]) {
			break
		}
		s.heap[i] = s.heap[parent]
		s.place[s.heap[i]] = i
		i = parent
	}
	s.heap[i], s.place[v] = v, i
}

func (s *Solver) down(i int32) {
	v, n := s.heap[i], int32(len(s.heap))
	for {
		child := 2*i + 1
		if child >= n {
			break
		}
		if child+1 < n && s.before(s.heap[child+1], s.heap[child]) {
			child++
		}
		if !s.before(s.heap[child], v) {
			break
		}
		s.heap[i] = s.heap[child]
		s.place[s.heap[i]] = i
		i = child
	}
	s.heap[i], s.place[v] = v, i
}
