package logbridge

import (
	"errors"
	"testing"

	"k8s.io/klog/v2"
)

func TestFatalBecomesAFault(t *testing.T) {
	old := klog.OsExit
	defer func() { klog.OsExit = old }()
	f := NewFatal()
	for range 2 { // the second one finds nobody waiting and must not block the first
		go klog.OsExit(255)
	}
	if err := f.Run(t.Context()); !errors.Is(err, ErrFatal) {
		t.Errorf("Run = %v, want ErrFatal", err)
	}
}
