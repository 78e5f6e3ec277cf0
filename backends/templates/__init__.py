"""What kernel templates of all targets share: epilogues, reading operands, packing constants."""
