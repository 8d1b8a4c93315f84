package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	// mostBody bounds a request, in bytes; what a text of that size takes is bounded with it.
	mostBody = 64 << 10
	// device is where the model is computed. It is small: a GPU would not make it faster.
	device = "cpu"
)

// answer is what /v1/classify says.
type answer struct {
	Language      string             `json:"language"`
	Probabilities map[string]float64 `json:"probabilities"`
	Device        string             `json:"device"`
}

// serve answers until SIGTERM, then lets requests in flight finish.
func serve(file, port string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	m, err := parseModel(raw)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Addr: ":" + port, Handler: handler(m), MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	fmt.Printf("%d languages, %d sequences, computed on the %s; listening on :%s\n", len(m.Languages), len(m.Counts), device, port)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func handler(m *model) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /v1/classify", func(w http.ResponseWriter, r *http.Request) {
		text, status, err := readText(w, r)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		language, probabilities := m.classify(text)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer{Language: language, Probabilities: probabilities, Device: device}) // the client may be gone
	})
	return mux
}

// readText gives the text of a request, or what is wrong with it and the status that says so.
func readText(w http.ResponseWriter, r *http.Request) (string, int, error) {
	var asked struct {
		Text *string `json:"text"`
	}
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostBody))
	body.DisallowUnknownFields()
	err := body.Decode(&asked)
	if err == nil {
		if _, err = body.Token(); err == io.EOF {
			err = nil
		} else if err == nil {
			err = errors.New("there is something behind the object")
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return "", http.StatusRequestEntityTooLarge, fmt.Errorf("read request: more than %d bytes", large.Limit)
	case err != nil:
		return "", http.StatusBadRequest, fmt.Errorf(`read request: %w; want {"text": "..."}`, err)
	case asked.Text == nil || *asked.Text == "":
		return "", http.StatusBadRequest, errors.New(`read request: no text; want {"text": "..."}`)
	}
	return *asked.Text, 0, nil
}
