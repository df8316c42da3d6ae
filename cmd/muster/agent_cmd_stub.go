package main

import "github.com/spf13/cobra"

func agentCommand() *cobra.Command {
	return &cobra.Command{Use: "agent", Run: func(*cobra.Command, []string) {}}
}
func validateCommand() *cobra.Command {
	return &cobra.Command{Use: "validate", Run: func(*cobra.Command, []string) {}}
}
