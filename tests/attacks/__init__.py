"""What attackers try, each by the door that is theirs."""
