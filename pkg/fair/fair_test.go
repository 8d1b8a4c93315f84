package fair

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// take acquires in the background and notes who was served.
func take(l *Limiter, served chan<- string, key, name string, weight int64) {
	go func() {
		if l.Acquire(context.Background(), key, weight) == nil {
			served <- name
		}
	}()
	synctest.Wait()
}

func TestKeysTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, served := New(1, 1), make(chan string, 10)
		take(l, served, "greedy", "first", 1)
		for i := range 3 {
			take(l, served, "greedy", fmt.Sprint("greedy ", i), 1)
		}
		take(l, served, "late", "late", 1)
		if !l.Wanted("greedy") || !l.Wanted("late") {
			t.Error("both keys wait, and neither sees the other")
		}
		var got []string
		for _, key := range []string{"greedy", "greedy", "late", "greedy", "greedy"} {
			got = append(got, <-served)
			l.Release(key, 1)
			synctest.Wait()
		}
		if want := "[first greedy 0 late greedy 1 greedy 2]"; fmt.Sprint(got) != want {
			t.Errorf("served %v, want %s", got, want)
		}
		if l.free != 1 || len(l.held)+len(l.queues)+len(l.turns) != 0 {
			t.Errorf("something is left: %+v", l)
		}
	})
}

func TestOneKeyHasItsShareAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, served := New(3, 2), make(chan string, 10)
		for i := range 5 {
			take(l, served, "greedy", fmt.Sprint(i), 1)
		}
		take(l, served, "other", "other", 1)
		if len(served) != 3 {
			t.Fatalf("%d were served, want two of one key and one of the other", len(served))
		}
		<-served
		<-served
		if last := <-served; last != "other" {
			t.Errorf("third was %s", last)
		}
		l.Release("greedy", 1)
		synctest.Wait()
		if len(served) != 1 {
			t.Errorf("a place of its own that came back was not given to it again")
		}
		for range 3 {
			l.Release("greedy", 1)
			synctest.Wait()
		}
		if len(served) != 3 {
			t.Errorf("%d served in the end, want all", len(served)+3)
		}
	})
}

// TestALargeWishIsServed: small ones that come later do not go before it.
func TestALargeWishIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, served := New(4, 4), make(chan string, 10)
		take(l, served, "small", "small", 1)
		take(l, served, "large", "large", 9) // as many as there are
		take(l, served, "small", "later", 1)
		if len(served) != 1 {
			t.Fatalf("%d are served while the large one waits", len(served))
		}
		l.Release("small", 1)
		synctest.Wait()
		<-served
		if got := <-served; got != "large" || len(served) != 0 {
			t.Errorf("%s was served, and %d more", got, len(served))
		}
		l.Release("large", 9)
		synctest.Wait()
		if got := <-served; got != "later" {
			t.Errorf("%s was served in the end", got)
		}
	})
}

func TestWhoGoesAwayTakesNothingAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, served := New(2, 2), make(chan string, 10)
		take(l, served, "a", "a", 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- l.Acquire(ctx, "b", 2) }()
		synctest.Wait()
		take(l, served, "a", "behind", 1)
		why := errors.New("enough")
		cancel(why)
		if err := <-gone; !errors.Is(err, why) {
			t.Errorf("error %v, want the cause", err)
		}
		synctest.Wait()
		if len(served) != 2 {
			t.Errorf("who stood behind the one that left still waits")
		}
	})
}
