package hint

// Nearest finds the candidate that the operator most likely meant by word: the one fewest edits away,
// if that is at most a third of its length (and at least two). It returns "" when nothing is near.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", -1
	for _, c := range candidates {
		d := distance(word, c)
		if d > max(2, len(c)/3) {
			continue
		}
		if bestDistance < 0 || d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance: single-byte insertions, deletions and replacements.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next := min(row[j]+1, row[j-1]+1, diagonal+cost)
			diagonal, row[j] = row[j], next
		}
	}
	return row[len(b)]
}
