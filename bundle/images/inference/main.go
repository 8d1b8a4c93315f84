// Command inference is the image of the example of online inference: it tells in which language a text is written, over HTTP, by
// a model that it also makes. The model counts sequences of characters in the sentences of corpus; the image's build trains it.
// It computes on the CPU, whatever GPUs its Pod has.
//
//	inference                          serve on :8080 (or $PORT) with the model /model.json (or $MODEL)
//	inference train -corpus DIR -out FILE  make the model of DIR/LANGUAGE.txt, one sentence a line
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "inference:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return serve(or(os.Getenv("MODEL"), "/model.json"), or(os.Getenv("PORT"), "8080"))
	}
	if args[0] != "train" {
		return fmt.Errorf("unknown command %q: want train, or nothing to serve", args[0])
	}
	flags := flag.NewFlagSet("train", flag.ContinueOnError)
	corpus := flags.String("corpus", "", "folder with a file LANGUAGE.txt for each language")
	out := flags.String("out", "", "file for the model")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if *corpus == "" || *out == "" || flags.NArg() > 0 {
		return errors.New("usage: inference train -corpus DIR -out FILE")
	}
	raw, err := train(os.DirFS(*corpus))
	if err != nil {
		return fmt.Errorf("train on %s: %w", *corpus, err)
	}
	return os.WriteFile(*out, raw, 0o644)
}

func or(value, usual string) string {
	if value == "" {
		return usual
	}
	return value
}
