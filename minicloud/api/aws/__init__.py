"""What all of AWS's protocols share: requests and answers by AWS's own service models."""
