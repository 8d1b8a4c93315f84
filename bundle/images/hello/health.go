package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
)

// unhealthyFile makes the server say that it is not healthy, for as long as it is there.
const unhealthyFile = "/tmp/unhealthy"

func healthy() bool {
	_, err := os.Stat(unhealthyFile)
	return errors.Is(err, os.ErrNotExist)
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	if !healthy() {
		http.Error(w, "there is "+unhealthyFile, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Numbers of grpc.health.v1 and of gRPC's status.
const (
	serving       = 1
	notServing    = 2
	grpcNotFound  = "5"
	grpcOK        = "0"
	messagePrefix = 5 // a flag and the length of the message
)

// grpcHealth answers grpc.health.v1.Health/Check for the server as a whole. One message of two bytes needs no library.
func grpcHealth(w http.ResponseWriter, r *http.Request) {
	request, err := io.ReadAll(io.LimitReader(r.Body, 4096))
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	if len(request) > messagePrefix { // it names a service
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", grpcNotFound)
		w.WriteHeader(http.StatusOK)
		return
	}
	status := byte(serving)
	if !healthy() {
		status = notServing
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", grpcOK)
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 1 << 3, status}) // field 1, a number
}
