package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The files of a Pod's service account, used for https unless told otherwise.
const (
	accountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	accountCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

func get(args []string) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	insecure := flags.Bool("k", false, "do not verify the server's certificate")
	timeout := flags.Duration("timeout", 15*time.Second, "time for all of it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: hello get [-k] [-timeout D] URL")
	}
	req, err := http.NewRequest(http.MethodGet, flags.Arg(0), nil)
	if err != nil {
		return err
	}
	tlsConfig := &tls.Config{InsecureSkipVerify: *insecure}
	if req.URL.Scheme == "https" {
		if ca, err := os.ReadFile(accountCA); err == nil {
			tlsConfig.RootCAs = x509.NewCertPool()
			tlsConfig.RootCAs.AppendCertsFromPEM(ca)
		}
		if token, err := os.ReadFile(accountToken); err == nil {
			req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		}
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

func resolve(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: hello resolve NAME")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, args[0])
	if err != nil {
		return err
	}
	for _, a := range addrs {
		fmt.Println(a)
	}
	return nil
}

// alloc touches every page, so that the memory is really used. With $HOLD it then keeps it until it is told to end.
func alloc(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: hello alloc MB")
	}
	mb, err := strconv.Atoi(args[0])
	if err != nil || mb <= 0 {
		return fmt.Errorf("%q is no number of megabytes", args[0])
	}
	block := make([]byte, mb<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	fmt.Printf("holding %d MB\n", mb)
	if os.Getenv("HOLD") != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		<-ctx.Done()
	}
	runtime.KeepAlive(block)
	return nil
}
