package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// greetingFile is where examples mount a ConfigMap; it is read for each request, so that a change shows at once.
const greetingFile = "/etc/hello/greeting"

// serve answers until SIGTERM, then lets requests in flight finish.
func serve() error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", hello)
	mux.HandleFunc("/healthz", healthz)
	mux.HandleFunc("/grpc.health.v1.Health/Check", grpcHealth)
	mux.HandleFunc("/exit", exit)
	mux.HandleFunc("/burn", burn)
	srv := &http.Server{Addr: ":" + port, Handler: logged(mux), ReadHeaderTimeout: 10 * time.Second, Protocols: &http.Protocols{}}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true) // gRPC

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	fmt.Printf("listening on :%s\n", port)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	fmt.Println("stopping")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
		next.ServeHTTP(w, r)
	})
}

func hello(w http.ResponseWriter, _ *http.Request) {
	greeting := os.Getenv("GREETING")
	if b, err := os.ReadFile(greetingFile); err == nil {
		greeting = strings.TrimSpace(string(b))
	}
	if greeting == "" {
		greeting = "hello"
	}
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	fmt.Fprintf(w, "%s: pod %s, kernel %s\n", greeting, name, kernel())
}

// exit ends the process with the code asked for, to show restarts.
func exit(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.URL.Query().Get("code"))
	if err != nil || code < 0 || code > 255 {
		http.Error(w, "want /exit?code=0..255", http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "exiting with %d\n", code)
	time.AfterFunc(100*time.Millisecond, func() { os.Exit(code) })
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
