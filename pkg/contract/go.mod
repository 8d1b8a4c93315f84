module github.com/nodeless/nodeless/pkg/contract

go 1.24
